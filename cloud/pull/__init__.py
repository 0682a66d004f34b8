"""Fetching what a station's reviewers decided into a folder, as often as one likes; hashes are checked."""
