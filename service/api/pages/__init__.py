"""Lists, the cluster, tokens and signing in, as pages of HTML: they work without a script, which only keeps them up to date."""
