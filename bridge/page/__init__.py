"""The page's server: frames to browsers and back."""
