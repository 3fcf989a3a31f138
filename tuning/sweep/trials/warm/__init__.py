"""A sweep's runs in processes of this machine that stay warm."""
