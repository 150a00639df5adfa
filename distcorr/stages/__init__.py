"""Ray: the only layer that imports it. One file is one command and one section of the paper."""
