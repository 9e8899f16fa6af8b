"""FAISS index files, written and read without FAISS: the only package that knows their bytes."""
