"""The wardrobe's items: rows in a database, pictures as files by digest. Knows no HTTP and no model."""
