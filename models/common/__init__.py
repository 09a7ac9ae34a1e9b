"""What every room stands on: errors, files, the one door for readers and the one for outputs, pages, commands."""
