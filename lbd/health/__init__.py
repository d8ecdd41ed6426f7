"""Floor 4: active checks of members, and the tracker that decides up or down."""
