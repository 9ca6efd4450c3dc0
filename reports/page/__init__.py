"""What a report's page shows and how it is written: ``page`` puts it together, and the other files make its parts."""
