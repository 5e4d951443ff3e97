def write(folder, results, asked, shown, notes, versions):
    pass
