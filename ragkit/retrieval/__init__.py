"""Finding passages: encoding, indexes, BM25, fusion, hard negatives."""
