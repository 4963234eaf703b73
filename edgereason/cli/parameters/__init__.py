"""Options and arguments that several commands have, and what has become of renamed ones."""
