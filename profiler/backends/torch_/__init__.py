"""Backend `torch`: eager on a CPU, CUDA graphs on a GPU."""
