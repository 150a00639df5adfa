"""Files: data sets in, Parquet tables out. Knows pyarrow and paths, not Ray."""
