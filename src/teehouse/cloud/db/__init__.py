"""The control plane's database: engine, units of work, tables, migrations."""
