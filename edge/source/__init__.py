"""Where frames come from: addresses, the capture process, files and folders, hours and pauses."""
