"""What an operator asks for: `secondlook doctor`, `status`, `config`. It looks at both sides, edge and cloud."""
