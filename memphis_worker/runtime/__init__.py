"""One process that works: pull, execute, settle, stop. Knows no broker library, no metrics library, no command line."""
