"""The proxy "linear" for tables that do not fit into memory."""
