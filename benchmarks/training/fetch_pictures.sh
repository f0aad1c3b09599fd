#!/bin/sh
# Download the Debian packages that hold the pictures and unpack them: fetch_pictures.sh DIRECTORY
# Needs a Debian system with fresh package lists (apt-get update). Nothing gets installed.
set -eu

directory=${1:?usage: fetch_pictures.sh DIRECTORY}
mkdir -p "$directory"
cd "$directory"
apt-get download \
    lomiri-wallpapers-16.04 \
    lomiri-wallpapers-20.04 \
    mate-backgrounds \
    plasma-workspace-wallpapers \
    python3-skimage
for package in ./*.deb; do
    dpkg -x "$package" .
done
