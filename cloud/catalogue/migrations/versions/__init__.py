"""The migrations, one file each; a file's name is its revision, and their order is that of the names."""
