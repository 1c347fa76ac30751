"""What a proxy has: `istioctl proxy-config`, `proxy-status` and what they share."""
