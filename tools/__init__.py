"""What `make check`, `make proto`, `make lock` and `make cover` run."""
