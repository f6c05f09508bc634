//! Development only: simulated disk, independent model, checkers.
