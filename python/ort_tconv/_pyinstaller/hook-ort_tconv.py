"""What PyInstaller does not see: the library is opened by its path, modules when they are used."""

from PyInstaller.utils.hooks import collect_submodules, copy_metadata

from ort_tconv import get_library_path

binaries = [(get_library_path(), "ort_tconv")]
datas = copy_metadata("ort-tconv")  # its version
hiddenimports = collect_submodules("ort_tconv", lambda name: "._pyinstaller" not in name)
