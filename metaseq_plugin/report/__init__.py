"""What a person reads of a run's ledger, and writes into it: screens, tables, the chronicle, notes."""
