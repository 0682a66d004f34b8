"""The commands `secondlook webhooks`."""
