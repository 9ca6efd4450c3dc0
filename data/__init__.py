"""Images in: data sets, the packed store, pairing, views."""
