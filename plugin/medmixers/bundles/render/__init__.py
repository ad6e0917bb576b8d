"""A row of the catalog to the text of its bundle's files."""
