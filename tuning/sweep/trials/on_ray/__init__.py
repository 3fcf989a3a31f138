"""A sweep's runs on Ray: actors that train one run after another, and workers that share one."""
