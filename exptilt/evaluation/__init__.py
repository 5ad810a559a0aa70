"""Methods compared on problems with known answers, at equal cost, with intervals."""
