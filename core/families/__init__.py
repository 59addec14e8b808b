"""The model families: a file and a line of `table.FAMILIES` each; as folders, `folders`."""
