//! Edges of the recovery table's rows: what just still counts and what just no longer does.
