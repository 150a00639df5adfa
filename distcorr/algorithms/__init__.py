"""The paper's sections as pure functions: arrays in, arrays out. No Ray, no files, no printing."""
