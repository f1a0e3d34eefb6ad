"""What an encode worker decides: whose pictures it computes, and whose embeddings it keeps."""
