"""What pictures share: what a picture is (``base``), how it looks (``style``), the images (``images``) and the network
(``network``) that it shows, and videos (``video``)."""
