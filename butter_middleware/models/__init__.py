"""The data: checkouts, records, captured requests and responses, answers, reasons."""
