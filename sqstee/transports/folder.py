"""x"""

INDEX_NAME = "runs.ndjson"
HIDDEN = ".sqstee"
FOREIGN_NAME = "_foreign"
