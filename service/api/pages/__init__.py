"""Lists, jobs, the forms that start them, the cluster, tokens and signing in, as pages of HTML: they work without a script."""
