"""What the tabular lens is made of: columns, tables and data frames."""
