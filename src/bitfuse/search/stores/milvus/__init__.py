"""Milvus as a second store: the same codes, ids and answers in an engine that spans machines (extra `milvus`)."""
