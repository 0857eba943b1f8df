"""Operations: cost estimates, preflight checks, run status and GPU leases."""
