"""Speed beside plain reference code: `make bench`."""
