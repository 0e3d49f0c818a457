"""What Azure's article on deleting images says (azure.md section 3.6)."""

# "Delete all untagged images", verbatim.
SCRIPT = """\
#!/bin/bash

# WARNING! This script deletes data!
# Run only if you do not have systems
# that pull images via manifest digest.

# Change to 'true' to enable image delete
ENABLE_DELETE=false

# Modify for your environment
REGISTRY=myregistry
REPOSITORY=myrepository

# Delete all untagged (orphaned) images
if [ "$ENABLE_DELETE" = true ]
then
    az acr repository show-manifests --name $REGISTRY --repository $REPOSITORY  --query "[?tags==null].digest" -o tsv \\
    | xargs -I% az acr repository delete --name $REGISTRY --image $REPOSITORY@% --yes
else
    echo "No data deleted. Set ENABLE_DELETE=true to enable image deletion."
fi
"""  # noqa: E501


def script(repository: str, *, enabled: bool) -> str:
    """The script with what it tells its reader to change."""
    changed = SCRIPT.replace("REPOSITORY=myrepository", f"REPOSITORY={repository}")
    return changed.replace("ENABLE_DELETE=false", "ENABLE_DELETE=true") if enabled else changed
