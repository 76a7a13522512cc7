"""The parts of the tabular lens: columns, tables and data frames."""
