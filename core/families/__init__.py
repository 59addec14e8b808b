"""The model families: a file and an entry of `folders.FOLDERS` each."""
