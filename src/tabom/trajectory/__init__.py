"""The central noun: records, order arithmetic, schema and store. No torch."""
