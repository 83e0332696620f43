"""Any configuration of PEFT: its file, fields and types, what it becomes on our base, what its training needs."""
