"""Which model meets which test images, and what is then said of it: comparisons, tables, figures, documents.

Nothing is fitted here.
"""
