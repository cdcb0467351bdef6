"""ragkit: adapt a RAG system to your documents, and prove that it got better."""

__version__ = "0.1.0"
