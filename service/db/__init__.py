"""What the service remembers: tables, migrations, and every statement that touches them."""
