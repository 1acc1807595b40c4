"""The PSPs' objects as tables: one file a PSP, to be read beside that PSP's own documentation."""
