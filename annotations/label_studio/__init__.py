"""Label Studio: its server, its files, and the commands that push, pull, import and export."""
