"""Indexes over codes behind one protocol: exact ones (`scan`, `linear`) and an approximate tier (`faiss`)."""
