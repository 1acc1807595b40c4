"""The PSPs' objects as tables: one file for each PSP, to be compared with the PSP's documentation."""
