"""Small helpers that belong to no room: files, random streams, logging, progress."""
